//! Intune custom compliance: a discovery script that prints one JSON object, and the rules that judge it.

use crate::canonical;
use crate::error::Result;
use serde_json::{Value, json};

/// Settings of the script's object: name, type, operator, what it must be, title, description.
const SETTINGS: [(&str, &str, &str, &str, &str, &str); 3] = [
    (
        "HotgraftOpenVulnerabilities",
        "Int64",
        "IsEquals",
        "0",
        "Security fixes are missing in memory",
        "Programs that are running do not have all security fixes. {ActualValue} are open.",
    ),
    (
        "HotgraftRestartPending",
        "Boolean",
        "IsEquals",
        "false",
        "A restart is pending",
        "An update is installed, but older programs are still running. Restart them, or the device.",
    ),
    (
        "HotgraftAction",
        "String",
        "IsEquals",
        "none",
        "The device has something to do",
        "The next step for this device is: {ActualValue}.",
    ),
];

/// The rules.
///
/// # Errors
/// None for documents of ours.
pub fn rules(more_info: &str) -> Result<Vec<u8>> {
    let rules: Vec<Value> = SETTINGS
        .iter()
        .map(|(name, kind, operator, operand, title, description)| {
            let operand: Value = match *kind {
                "Int64" => operand.parse::<i64>().map(Value::from).unwrap_or_default(),
                "Boolean" => (*operand == "true").into(),
                _ => (*operand).into(),
            };
            json!({
                "SettingName": name,
                "Operator": operator,
                "DataType": kind,
                "Operand": operand,
                "MoreInfoUrl": more_info,
                "RemediationStrings": [{ "Language": "en_US", "Title": title, "Description": description }],
            })
        })
        .collect();
    canonical::pretty(&json!({ "Rules": rules }))
}

/// The script. It observes the machine, lets hotgraft judge what it saw, and prints the settings that the rules name; if
/// anything fails, it says that everything is open, because nothing is known. The installer of the product puts the catalog,
/// its root and `images.txt`, the paths of the installed images, into `%ProgramData%\\hotgraft`.
pub fn script() -> Vec<u8> {
    SCRIPT.replace('\n', "\r\n").into_bytes()
}

const SCRIPT: &str = r#"# Discovery script for Intune custom compliance. Runs as the system, prints one JSON object.
$ErrorActionPreference = 'Stop'
$state = Join-Path $env:ProgramData 'hotgraft'
$program = Join-Path $env:ProgramFiles 'hotgraft\hotgraft.exe'
$machine = Join-Path $state 'machine.json'
try {
    $images = @(Get-Content (Join-Path $state 'images.txt'))
    & $program release observe $images --output $machine --quiet
    if ($LASTEXITCODE -ne 0) { throw 'the machine cannot be observed' }
    $catalog = @((Join-Path $state 'catalog'), '--root', (Join-Path $state 'root.json'))
    $said = & $program release plan $catalog --machine $machine --format json --quiet | Out-String
    if ($LASTEXITCODE -ne 0) { throw 'the catalog is not to be trusted' }
    $plan = (ConvertFrom-Json $said).plans[0]
    $answer = @{
        HotgraftOpenVulnerabilities = @($plan.open).Count
        HotgraftRestartPending = ($plan.action -eq 'finish_restart')
        HotgraftAction = $plan.action
    }
} catch {
    $answer = @{ HotgraftOpenVulnerabilities = 999; HotgraftRestartPending = $true; HotgraftAction = 'unknown' }
}
return $answer | ConvertTo-Json -Compress
"#;
